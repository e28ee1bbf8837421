"""Reads what is exported with other people's programs. Usage: readers.py prom|openmetrics|hlog FILE; prints what it found as JSON."""

import json
import sys

from hdrh.log import HistogramLogReader
from hdrh.histogram import HdrHistogram
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

form, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    text = file.read()
if form == "hlog":
    reader = HistogramLogReader(path, HdrHistogram(1, 60_000_000, 2))
    found = {}
    while (histogram := reader.get_next_interval_histogram()) is not None:
        own = found.setdefault(histogram.get_tag(), [0, 0])
        own[0] += histogram.get_total_count()
        own[1] = max(own[1], histogram.get_max_value())
    json.dump(found, sys.stdout)
else:
    parse = openmetrics.text_string_to_metric_families if form == "openmetrics" else text_string_to_metric_families
    families = [
        {
            "name": family.name,
            "type": family.type,
            "unit": family.unit,
            "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
        }
        for family in parse(text)
    ]
    json.dump(families, sys.stdout)
