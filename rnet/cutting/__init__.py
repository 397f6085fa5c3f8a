"""F = tail o head: any network in two at a named layer, exactly."""
