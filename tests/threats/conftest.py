"""The page's tests have a browser and a server that lies; both serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "browser"))
