"""How good detections are: matches, alarms, mistakes, intervals, and the report of them."""
