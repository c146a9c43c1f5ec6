"""Microsoft's Kinects: the first one (``v1``, through libfreenect) and the Azure Kinect (``azure``:
live through the vendor's library, or a recording, which needs none)."""
