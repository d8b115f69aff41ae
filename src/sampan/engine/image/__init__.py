"""Images: finding, naming, moving, making and removing them."""
