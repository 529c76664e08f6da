"""What the processes of one service know together."""
