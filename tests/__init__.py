"""Tests, benches and references."""

import signal

# a shell's background jobs and nohup ignore Ctrl-C, and what the tests start would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
