"""What is given away: wheel and source, the lock, the bill of materials, licences."""
