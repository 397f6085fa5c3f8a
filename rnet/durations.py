"""How long something takes, or how long ago it was, in words."""


def duration(seconds: float) -> str:
    """45 s, 6 min, 2 h 5 min, 12 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes <= 48 * 60 else f"{minutes / 1440:.0f} days"
