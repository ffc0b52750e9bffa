"""`python -m fastchat`."""

import sys

from fastchat.cli import main

sys.exit(main())
