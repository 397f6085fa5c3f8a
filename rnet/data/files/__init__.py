"""Which files a data set is read from, what they are called, and what their content is. No torch here."""
