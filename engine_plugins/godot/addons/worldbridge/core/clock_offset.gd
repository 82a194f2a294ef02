extends RefCounted
## Client time minus server time from pings, by the shortest of the last round trips: queueing only
## adds time, so the shortest is the most symmetric. The error is at most half of it.

## Client time minus server time in ms; NAN before the first pong.
var offset := NAN
## The latest round trip in ms; NAN before the first pong.
var rtt := NAN
var min_rtt := NAN

var _window: int
var _trips: PackedFloat64Array = []
var _offsets: PackedFloat64Array = []


func _init(window := 30) -> void:
	_window = window


func pong(sent: float, received: float, server_time: float) -> void:
	if not received >= sent:
		return
	rtt = received - sent
	_offsets.append((sent + received) / 2.0 - server_time)
	_trips.append(rtt)
	if _offsets.size() > _window:
		_offsets.remove_at(0)
		_trips.remove_at(0)
	var best := 0
	for i in _trips.size():
		if _trips[i] < _trips[best]:
			best = i
	offset = _offsets[best]
	min_rtt = _trips[best]


func reset() -> void:
	_trips.clear()
	_offsets.clear()
	offset = NAN
	rtt = NAN
	min_rtt = NAN
