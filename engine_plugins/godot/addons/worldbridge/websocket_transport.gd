extends RefCounted
## A WebSocket of binary messages. `poll` sends and receives; nothing blocks.

# The engine's default of 64 KiB would close the connection at the first large frame. Both limits
# are read when the connection is made.
const INBOUND_BYTES := 8 * 1024 * 1024 + 65536
const INBOUND_MESSAGES := 1024
const OUTBOUND_BYTES := 64 * 1024 * 1024  # prompt frames wait here
const CLOSE_MS := 100

var _peer: WebSocketPeer = null
var _open := false


## Return OK, or the engine's error for an address that is none.
func open(url: String) -> Error:
	close()
	_peer = WebSocketPeer.new()
	_peer.inbound_buffer_size = INBOUND_BYTES
	_peer.max_queued_packets = INBOUND_MESSAGES
	_peer.outbound_buffer_size = OUTBOUND_BYTES
	return _peer.connect_to_url(url)


## Return what happened: `opened` (bool), `messages` (Array of PackedByteArray), `closed` (String
## with the reason, or null).
func poll() -> Dictionary:
	var result := {"opened": false, "messages": [], "closed": null}
	if _peer == null:
		return result
	_peer.poll()
	var state := _peer.get_ready_state()
	if state == WebSocketPeer.STATE_OPEN and not _open:
		_open = true
		_peer.set_no_delay(true)
		result["opened"] = true
	while _peer.get_available_packet_count() > 0:
		result["messages"].append(_peer.get_packet())
	if state == WebSocketPeer.STATE_CLOSED:
		result["closed"] = "the connection was closed (WebSocket code %d%s)" % [
			_peer.get_close_code(), " " + _peer.get_close_reason()]
		_peer = null
		_open = false
	return result


func send(data: PackedByteArray) -> void:
	if _open:
		_peer.send(data)


## Close politely, for at most 100 ms: what was sent before still leaves.
func close() -> void:
	if _peer == null:
		return
	if _open:
		_peer.close()
		var end := Time.get_ticks_msec() + CLOSE_MS
		while _peer.get_ready_state() != WebSocketPeer.STATE_CLOSED and Time.get_ticks_msec() < end:
			_peer.poll()
			while _peer.get_available_packet_count() > 0:
				_peer.get_packet()
			OS.delay_usec(1000)
	_peer = null
	_open = false
