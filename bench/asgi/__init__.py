"""The parts of bench/asgi.py: the application in its variants, and what they cost."""
