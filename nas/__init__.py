"""Search over slicings: space, objectives, searchers, trial store. Knows neither Ray nor the web service."""
