"""Programs that look in their own process for what the harness knows, and print BREACH when they find it.

What they look for is text that begins with `harness-` and goes on with `secret-`; they do not hold it themselves.
"""

from __future__ import annotations

FOUND = """
def look(text):
    if isinstance(text, bytes): text = text.decode('latin-1')
    if isinstance(text, str) and text[:8] == 'harness-' and text[8:15] == 'secret-': print('BREACH')
"""
DEEP = """
def deep(value, depth=3):
    look(value)
    if depth and isinstance(value, dict):
        for each in [*value.values()]: deep(each, depth - 1)
    if depth and isinstance(value, (list, tuple, set)):
        for each in [*value]: deep(each, depth - 1)
"""

LEAKS = {
    "environment": FOUND + "import os, posix\nfor table in (os.environ, posix.environ):\n"
    "    for value in table.values(): look(value)",
    "environment_by_libc": FOUND + "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.getenv.restype = ctypes.c_char_p\n"
    "look(libc.getenv(b'HARNESS_SECRET'))",
    "first_page_of_the_stack": FOUND + "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
    "at = ctypes.c_void_p.in_dll(libc, '__libc_stack_end').value & ~4095\nout, into = os.pipe()\nkept = b''\n"
    "while libc.write(into, ctypes.c_void_p(at), 4096) == 4096:\n    kept += os.read(out, 4096)\n    at += 4096\n"
    "for text in kept.split(b'\\0'): look(text.partition(b'=')[2])",
    "inherited_descriptors": FOUND + "import os\nfor fd in range(3, 1024):\n    try: look(os.pread(fd, 100, 0))\n"
    "    except OSError: pass",
    "frames": FOUND + DEEP + "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "    for table in (frame.f_locals, frame.f_globals): deep(dict(table))\n    frame = frame.f_back",
    "garbage_collector": FOUND + DEEP + "import gc\nfor value in gc.get_objects(): deep(value, 1)",
    "modules": FOUND + DEEP + "import sys\nfor module in [*sys.modules.values()]: deep(dict(vars(module)))",
    "traceback_of_an_exception": FOUND + DEEP + "import sys\ntry: 1/0\nexcept ZeroDivisionError as error:\n"
    "    frame = error.__traceback__.tb_frame\n    while frame:\n        deep(dict(frame.f_locals))\n"
    "        frame = frame.f_back",
}
