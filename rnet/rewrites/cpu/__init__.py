"""Winograd's convolution for the small maps of a network whose weights stand still, on CPUs in float32."""
