"""Make matplotlib's list of fonts part of the image, and let it be read where nothing is writable.

matplotlib keeps the list in a folder that it insists on being able to write; on a read-only root
file system without a /tmp it refuses to be imported. One line of the installed copy is changed to
ask for a folder that can be read. The build fails when that line is not what it was.
"""

import os
import py_compile
from importlib.util import find_spec
from pathlib import Path

WRITABLE = "os.access(str(configdir), os.W_OK)"
READABLE = "os.access(str(configdir), os.R_OK)"


def accept_read_only_folder() -> None:
    """Change the one line; SystemExit when matplotlib no longer has it exactly once."""
    source = Path(find_spec("matplotlib").origin)
    text = source.read_text()
    found = text.count(WRITABLE)
    if found != 1:
        raise SystemExit(f"{source}: wanted {WRITABLE!r} once, found it {found} times")
    source.write_text(text.replace(WRITABLE, READABLE))
    py_compile.compile(str(source), doraise=True)


def write_font_list() -> None:
    """Write the list into MPLCONFIGDIR, readable by any user."""
    import matplotlib.font_manager  # noqa: F401  (importing it writes the list)

    for path in Path(os.environ["MPLCONFIGDIR"]).iterdir():
        path.chmod(0o644)


accept_read_only_folder()
write_font_list()
