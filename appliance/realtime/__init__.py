"""The wire: typed messages of the Realtime protocol, their payloads, and the transports that carry them."""
