"""The launcher: what runs in the helper interpreter, first outside the walls and then within.

It is started by `python -P -s -S -B` without the rest of the project, so its modules import each other relatively and
otherwise the standard library only, and little of that: each import is paid for in every run. Everything is imported
before the walls go up; nothing here can be read from within.
"""
