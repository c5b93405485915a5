"""Programs that check promises no test of the suite holds: too long, too random, or on a machine of their own."""
