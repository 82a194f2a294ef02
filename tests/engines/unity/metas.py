"""Write the .meta files of the Unity package: python tests/engines/unity/metas.py

A file's guid is the MD5 of its path in the package, so it stays when the file's content changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "engine_plugins" / "unity" / "com.worldbridge.client"


def expected() -> dict[Path, str]:
    """Return path and content of every .meta file that the package must have.

    Folders that end in ``~`` have none; the contents of ``Samples~`` do, because they are copied
    into projects.
    """
    metas = {}
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE)
        if path.suffix == ".meta" or name.parts[0] == "Documentation~" or name.name[-1] == "~":
            continue
        guid = hashlib.md5(name.as_posix().encode(), usedforsecurity=False).hexdigest()
        folder = "folderAsset: yes\n" if path.is_dir() else ""
        metas[path.with_name(path.name + ".meta")] = f"fileFormatVersion: 2\nguid: {guid}\n{folder}"
    return metas


def main() -> None:
    """Write the missing files and delete those without a file."""
    metas = expected()
    for path in set(PACKAGE.rglob("*.meta")) - set(metas):
        path.unlink()
    for path, text in metas.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
