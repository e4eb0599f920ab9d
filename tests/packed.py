"""Makes Python environments for tests: small ones at once, real ones of other Python versions with pip."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import mlserve

HERE = ".".join(map(str, sys.version_info[:2]))
# A version of scikit-learn for each Python, none of them the newest.
OLD_SKLEARN = {"3.10": "1.3.2", "3.11": "1.3.2", "3.12": "1.5.2", "3.13": "1.6.1", "3.14": "1.7.2"}


def other_python() -> str:
    """An interpreter of another version that can run a worker; our own where there is no other."""
    places = [*Path.home().glob(".pyenv/versions/*/bin/python3.*"), *Path("/usr/local/bin").glob("python3.*")]
    found = {path.name.removeprefix("python"): str(path) for path in places if re.fullmatch(r"python3\.\d+", path.name)}
    for version in OLD_SKLEARN:
        path = found.get(version) or shutil.which(f"python{version}")
        if version != HERE and path and _works(path):
            return path
    return sys.executable


def _works(python: str) -> bool:
    code = "import ensurepip, json, ssl, sys; print(json.dumps(sys.version_info[:2]))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=100)
    return done.returncode == 0


def version_of(python: str | Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def bare_venv(folder: Path, *, with_packages: bool = True) -> Path:
    """A venv of our own Python, made in a moment: with our packages, mlserve's needs among them, or with nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    packages = folder / "lib" / f"python{HERE}" / "site-packages"
    if with_packages:
        ours = {str(Path(one).resolve()) for one in sys.path if "site-packages" in one or "dist-packages" in one}
        (packages / "ours.pth").write_text("\n".join(sorted(ours)) + "\n")
    return packages


def pip_venv(folder: Path, python: str, *packages: str) -> Path:
    """A venv of another Python with packages from the index; its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True, timeout=120, env=clean())
    inner = folder / "bin" / "python"
    subprocess.run([inner, "-m", "pip", "install", "-q", *packages], check=True, timeout=400, env=clean())
    return inner


def clean() -> dict[str, str]:
    """Variables without those that lead to our own packages."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    """A plain archive of a folder, its interpreter's link as it is. Replaces an older one at once, as a person would."""
    new = archive.with_name(f"{archive.name}.new")
    with tarfile.open(new, "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, prefix + path.name)
    new.replace(archive)
    return archive


def archive_of(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w:gz") -> Path:
    """An archive of made-up members: names with contents, or members without."""
    import io

    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size, info.mode = len(member[1]), 0o755
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def same_mlserve(overlay: str) -> bool:
    """Whether an overlay leads to the very files that run here."""
    return Path(overlay, "mlserve").resolve() == Path(mlserve.__file__).parent.resolve()


def run_in(python: str | Path, code: str, *arguments: str) -> object:
    """What a piece of code prints as JSON in another interpreter."""
    command = [python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean(), timeout=120)
    return json.loads(done.stdout)
