"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Take signals as from a terminal: under nohup, or behind `&`, some are ignored, and so would they be by every process that a test starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
