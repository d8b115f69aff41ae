"""Where blobs lie: files, or objects of an S3-compatible server."""
