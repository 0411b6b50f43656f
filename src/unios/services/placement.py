"""Service `placement`: takes programs in and finds each a place.

It decides with core/placement.py and acts through the store and the kernels' `spawn`. One runs on every node; each serves those who submit through
its node, and looks after pending records that nobody else takes. It remembers nothing: killed at any moment, its successor
reads the store and goes on.

A submission is acknowledged when its record is durable. The request id is stored with it, in the same transaction, so that asking again after a lost
answer gives the same pid.
"""
