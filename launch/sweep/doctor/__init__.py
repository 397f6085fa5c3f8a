"""`rnet sweep doctor`: what a site and this machine offer to sweeps, and a profile of it."""
