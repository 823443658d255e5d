"""What the acceptance tests share: the server process, the demo endpoints, waiting, a lossy proxy."""
