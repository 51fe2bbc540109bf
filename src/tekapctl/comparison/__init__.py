"""What finished runs say together: groups over seeds, and differences with intervals."""
