"""What holds for all tests."""

import signal

from hypothesis import settings

settings.register_profile("unios", deadline=None)  # how long an example takes on a busy machine says nothing of what is tested
settings.load_profile("unios")


def pytest_configure() -> None:
    """Take signals as from a terminal: under nohup, or behind `&`, some are ignored, and so would they be by every process that a test starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
