"""Images built from what is installed here, as archives that `docker load` and `ctr images import` take."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["BUSYBOX", "PAUSE", "busybox_image", "image"]

BUSYBOX = "masdeepflow.test/busybox:1"
"""Has the programs of busybox on its PATH and runs a shell."""
PAUSE = "masdeepflow.test/pause:1"
"""What containerd starts first in each pod: sleeps."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ETC = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_DIRECTORIES = ("tmp", "run", "var/log/nginx", "var/lib/nginx")


def busybox_image(directory: Path) -> Path:
    """Return an archive with the images `BUSYBOX` and `PAUSE`."""
    return image(directory, {BUSYBOX: ["/bin/sh"], PAUSE: ["/bin/sleep", "2147483647"]})


def image(
    directory: Path,
    commands: Mapping[str, Sequence[str]],
    programs: Iterable[str] = (),
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Return an archive of images that share busybox and programs of this host, with their libraries.

    commands: image name with its tag -> what it runs. programs: names on this host's PATH, nginx or curl for
    instance, that the images have at the same place. files: path in the image -> content.
    """
    layer = _layer([_found(program) for program in programs], files or {})
    names = {f"sha256:{hashlib.sha256(layer).hexdigest()}": "layer.tar"}
    members: dict[str, bytes] = {"layer.tar": layer}
    manifest = []
    for name, command in commands.items():
        config = json.dumps(_config(command, list(names))).encode()
        members[f"{hashlib.sha256(config).hexdigest()}.json"] = config
        manifest.append({"Config": list(members)[-1], "RepoTags": [name], "Layers": list(names.values())})
    members["manifest.json"] = json.dumps(manifest).encode()
    archive = directory / f"{hashlib.sha256(members['manifest.json']).hexdigest()[:12]}.tar"
    archive.write_bytes(_tar(members))
    return archive


def _config(command: Sequence[str], layers: list[str]) -> dict[str, Any]:
    return {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": layers},
    }


def _tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            _add(tar, name, data)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _layer(programs: Sequence[Path], files: Mapping[str, bytes]) -> bytes:
    """Return the only layer: no directory entries but those that stay empty, the runtimes make the rest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in _DIRECTORIES:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        _add(tar, "bin/busybox", _found("busybox").read_bytes(), 0o755)
        for applet in run("busybox", "--list").stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for path in {found for program in programs for found in (program, *_libraries(program))}:
            _add(tar, str(path).lstrip("/"), path.read_bytes(), 0o755)
        for name, data in {**{name: text.encode() for name, text in _ETC.items()}, **files}.items():
            _add(tar, name.lstrip("/"), data)
    return out.getvalue()


def _found(program: str) -> Path:
    path = shutil.which(program)
    assert path, f"{program} is not installed here"
    return Path(path)


def _libraries(program: Path) -> list[Path]:
    """Return the shared libraries of a program, its loader included, as ldd(1) finds them."""
    words = run("ldd", program).stdout.split()
    return [Path(word) for word in words if word.startswith("/") and not word.endswith(":")]
