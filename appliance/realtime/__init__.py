"""The wire: typed messages of the Realtime protocol, what we put into them, and the transports that carry them."""
