extends RefCounted
## The newest decoded frame, between the network's thread and the main loop. A frame that was not
## taken before the next arrives is counted in `replaced`.

var replaced := 0

var _mutex := Mutex.new()
var _frame := {}


## Store a frame: `image` (Image), `header` (Dictionary), `received` (client ms).
func put(frame: Dictionary) -> void:
	_mutex.lock()
	if not _frame.is_empty():
		replaced += 1
	_frame = frame
	_mutex.unlock()


## Return the newest frame once; empty if there is none.
func take() -> Dictionary:
	_mutex.lock()
	var frame := _frame
	_frame = {}
	_mutex.unlock()
	return frame
