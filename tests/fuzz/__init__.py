"""Bytes from outside, mutated from a corpus: whatever arrives, only the errors that are promised come out, and no memory is taken for what is only announced."""
