"""`tekapctl doctor`."""

from tekapctl.cli import console, options


def doctor(as_json: options.Json = False) -> None:
    """Check the installation and hardware, and point out what will be slow.

    Example: tekapctl doctor
    """
    from tekapctl.commands.doctor import examine
    from tekapctl.store.home import Home

    found = examine(Home.default())
    if as_json:
        console.show_json(found)
        return
    fields = {name: str(version) for name, version in found["versions"].items()}
    for device in found["devices"]:
        words = [device["description"]]
        if "cores" in device:
            words.append(f"{device['cores']} cores, {device['threads']} threads")
        if device["memory_bytes"] is not None:
            words.append(console.format_bytes(device["memory_bytes"]))
        fields[device["name"]] = f"{', '.join(words)}; --precision auto uses {device['precision']}"
    home = found["home"]
    fields["C++ compiler"] = found["compiler"] or "none"
    fields["home"] = f"{home['path']}, {console.format_bytes(home['free_bytes'])} free"
    fields["cached"] = (
        ", ".join(f"{kind} {console.format_bytes(count)}" for kind, count in home["cached"].items()) or "nothing"
    )
    ready = [name for name, is_ready in found["datasets"].items() if is_ready]
    missing = [name for name, is_ready in found["datasets"].items() if not is_ready]
    fields["data sets"] = ", ".join(ready) + (f"; not downloaded: {', '.join(missing)}" if missing else "")
    fields["extras"] = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["extras"].items())
    console.show_fields(fields)
    for warning in found["warnings"]:
        console.say(warning)
