"""Service `placement`: takes programs in and finds each a place.

It decides with core/placement.py and acts through the store and the kernels' `spawn`. One runs on every node; each serves those who submit through
its node, and looks after pending records that nobody else takes. It remembers nothing: killed at any moment, its successor
reads the store and goes on.

A submission is acknowledged when its record is durable. The request id is stored with it, in the same transaction, so that asking again after a lost
answer gives the same pid.
"""

import asyncio
import os
import time
from collections.abc import Callable

import msgspec

from unios.client.aio import Kernel, serve
from unios.core import claims
from unios.core.nodes import Alive, NodeRecord
from unios.core.placement import NodeLoad, checked_placement
from unios.core.processes import ENDED, LIVE, ProcessRecord, ProcessSpec, process_key, spec_key
from unios.errors import CallerError, Denied, OutcomeUnknown, ProgramNotFound, ProgramNotRunnable, Unavailable, UniosError
from unios.limits import ARGUMENT_BYTES_MAX, BEAT_MS, PID_MAX, PID_MIN, SPEC_BYTES_MAX
from unios.store.client import StoreClient
from unios.store.mirror import Mirror
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.home import NodeFolder
