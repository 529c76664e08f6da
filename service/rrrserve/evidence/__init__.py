"""Measurements that claims are judged by: scrapes and Prometheus, cut into blocks."""
