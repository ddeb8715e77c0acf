"""Making, converting and checking data sets: DOTA's labels and tiles, other label formats, the drawn sample."""
