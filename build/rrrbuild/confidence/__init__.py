"""What the members' answers are worth: how many to ask, temperatures, sets with a guarantee, drift. numpy only."""
