"""What integrates the accelerator's Verilog into a design: a FuseSoC core file and an IP-XACT component.

Both are written beside the Verilog by `make verilog`. The core file is CAPI 2; the component is IEEE 1685-2014, with
the AXI4-Lite slave and its registers, and an AXI4 master for each memory channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from lxml import etree
from lxml.builder import ElementMaker

from spatten.hw.front.axi_lite import AxiLite
from spatten.hw.memory.axi import axi4
from spatten.hw.spatten import channel_prefix
from spatten.spec.config import Config
from spatten.spec.constants import AXI_ADDRESS_BITS
from spatten.spec.register_map import ADDRESS_BITS, Access, Register, RegisterMap

__all__ = ["fusesoc_core", "ip_xact"]

VENDOR, LIBRARY = "spatten", "accelerator"
"""With name and version they identify the accelerator, in both descriptions."""


def fusesoc_core(*, name: str, config: Config, version: str) -> str:
    """The core file of the accelerator whose module is `name`, in the file `name`.v, for FuseSoC 2 (CAPI 2).

    Targets: `default` brings the Verilog into a design, `lint` has Verilator check it.
    """
    core = {
        "name": f"{VENDOR}:{LIBRARY}:{name}:{version}",
        "description": f"SpAtten, a sparse-attention accelerator, configuration {config.name}",
        "filesets": {"rtl": {"files": [f"{name}.v"], "file_type": "verilogSource-2005"}},
        "targets": {
            "default": {"filesets": ["rtl"], "toplevel": name},
            "lint": {
                "filesets": ["rtl"],
                "toplevel": name,
                "flow": "lint",
                "flow_options": {"tool": "verilator", "verilator_options": ["-Wall"]},
            },
        },
    }
    return "CAPI=2:\n" + yaml.safe_dump(core, sort_keys=False, width=120)


_NAMESPACE = "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"
_E = ElementMaker(namespace=_NAMESPACE, nsmap={"ipxact": _NAMESPACE})
_ACCESS = {
    Access.RO: "read-only",
    Access.RW: "read-write",
    Access.W1C: "read-write",
    Access.WO: "write-only",
}


def ip_xact(*, name: str, config: Config, version: str, ports: Iterable[Mapping[str, Any]]) -> str:
    """The IP-XACT component of the accelerator whose module is `name`, in the file `name`.v.

    `ports` are those of its Verilog, in order: `name`, `direction` ("input", "output") and `width`.
    """
    channels = [channel_prefix(channel) for channel in range(config.channels)]
    component = _E.component(
        *_identity(name, version),
        _E.busInterfaces(
            _bus("s_axi", "AXI4-Lite", AxiLite(address_bits=ADDRESS_BITS).members, _slave()),
            *(_bus(prefix, "AXI4", axi4(AXI_ADDRESS_BITS, config.channel_bits).members, _master(prefix))
              for prefix in channels),
        ),
        _E.addressSpaces(
            *(_E.addressSpace(_E.name(prefix), _E.range(f"{1 << AXI_ADDRESS_BITS}"), _E.width(f"{config.channel_bits}"))
              for prefix in channels),
        ),
        _E.memoryMaps(
            _E.memoryMap(
                _E.name("registers"),
                _E.addressBlock(
                    _E.name("registers"),
                    _E.baseAddress("0"),
                    _E.range(f"{1 << ADDRESS_BITS}"),
                    _E.width("32"),
                    *map(_register, RegisterMap(config).values()),
                ),
                _E.addressUnitBits("8"),
            ),
        ),
        _E.model(
            _E.views(_E.view(_E.name("rtl"), _E.componentInstantiationRef("verilog"))),
            _E.instantiations(
                _E.componentInstantiation(
                    _E.name("verilog"),
                    _E.language("verilog"),
                    _E.moduleName(name),
                    _E.fileSetRef(_E.localName("rtl")),
                ),
            ),
            _E.ports(*map(_port, ports)),
        ),
        _E.fileSets(
            _E.fileSet(_E.name("rtl"), _E.file(_E.name(f"{name}.v"), _E.fileType("verilogSource"))),
        ),
        _E.description(f"SpAtten, a sparse-attention accelerator, configuration {config.name}"),
    )  # fmt: skip
    text: bytes = etree.tostring(component, pretty_print=True, xml_declaration=True, encoding="UTF-8")
    return text.decode()


def _identity(name: str, version: str) -> list[Any]:
    return [_E.vendor(VENDOR), _E.library(LIBRARY), _E.name(name), _E.version(version)]


def _bus(prefix: str, kind: str, members: Iterable[str], mode: Any) -> Any:
    """A bus interface; its bus definitions are those that Arm publishes for AMBA 4."""

    def reference(name: str) -> dict[str, str]:
        return {"vendor": "amba.com", "library": "AMBA4", "name": name, "version": "r0p0_0"}

    port_maps = (
        _E.portMap(_E.logicalPort(_E.name(member.upper())), _E.physicalPort(_E.name(f"{prefix}_{member}")))
        for member in members
    )
    return _E.busInterface(
        _E.name(prefix),
        _E.busType(reference(kind)),
        _E.abstractionTypes(_E.abstractionType(_E.abstractionRef(reference(f"{kind}_rtl")), _E.portMaps(*port_maps))),
        mode,
    )


def _slave() -> Any:
    return _E.slave(_E.memoryMapRef(memoryMapRef="registers"))


def _master(address_space: str) -> Any:
    return _E.master(_E.addressSpaceRef(addressSpaceRef=address_space))


def _register(register: Register) -> Any:
    fields = [
        _E.field(
            _E.name(field.name),
            _E.description(field.what),
            _E.bitOffset(f"{field.bit}"),
            _E.resets(_E.reset(_E.value(f"{field.reset}"))),
            _E.bitWidth(f"{field.width}"),
            _E.access(_ACCESS[register.access]),
            *([_E.modifiedWriteValue("oneToClear")] if register.access is Access.W1C else []),
        )
        for field in register.fields
    ]
    return _E.register(
        _E.name(register.name),
        _E.addressOffset(f"{register.offset}"),
        _E.size("32"),
        _E.volatile("true" if register.access in (Access.RO, Access.W1C) else "false"),
        _E.access(_ACCESS[register.access]),
        *(fields or [_E.field(_E.name("reserved"), _E.bitOffset("0"), _E.bitWidth("32"), _E.reserved("true"))]),
    )


def _port(port: Mapping[str, Any]) -> Any:
    vector = _E.vectors(_E.vector(_E.left(f"{port['width'] - 1}"), _E.right("0")))
    direction = {"input": "in", "output": "out"}[port["direction"]]
    return _E.port(_E.name(port["name"]), _E.wire(_E.direction(direction), *([vector] if port["width"] > 1 else [])))
