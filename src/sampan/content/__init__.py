"""Images and layers on disk: blobs by digest, unpacked layers, overlay roots, archives in and out."""
