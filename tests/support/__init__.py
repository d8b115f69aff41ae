"""What tests of a running daemon share: starting one, talking to it, and checking that it leaves nothing."""
