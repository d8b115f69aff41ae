"""Volumes on this machine's disk: where they are, how options mount them, how an image fills them."""
