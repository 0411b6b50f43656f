"""Sequential objects that a history is compared with."""
