"""An open CM3Leon: one autoregressive model that reads and writes text and images."""
