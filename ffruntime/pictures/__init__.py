"""Pictures: where they come from, how they are read, where the figure is, and the image that is made of them."""
