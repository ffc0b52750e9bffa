"""The rooms of the whole server: one order of publications, and who is where."""
