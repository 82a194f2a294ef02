extends RefCounted
## A ZeroMQ DEALER without a native library. `poll` sends and receives; nothing blocks.

const Zmtp = preload("core/zmtp.gd")

const CLOSE_MS := 100

var _peer: StreamPeerTCP = null
var _zmtp: Zmtp = null
var _open := false


## Return OK, or an error for an address that is none: tcp://host:port.
func open(url: String) -> Error:
	close()
	var place := url.trim_prefix("tcp://")
	var host := place.left(place.rfind(":")).trim_prefix("[").trim_suffix("]")
	var port := place.substr(place.rfind(":") + 1)
	if not host or not port.is_valid_int():
		return ERR_INVALID_PARAMETER
	_zmtp = Zmtp.new()
	_peer = StreamPeerTCP.new()
	return _peer.connect_to_host(host, int(port))


## Return what happened: `opened` (bool), `messages` (Array of Arrays of parts), `closed` (String
## with the reason, or null).
func poll() -> Dictionary:
	var result := {"opened": false, "messages": [], "closed": null}
	if _peer == null:
		return result
	_peer.poll()
	var status := _peer.get_status()
	if status == StreamPeerTCP.STATUS_CONNECTING:
		return result
	if status == StreamPeerTCP.STATUS_CONNECTED:
		_peer.set_no_delay(true)
		_receive()
		_flush()
	if _zmtp.ready and not _open:
		_open = true
		result["opened"] = true
	result["messages"] = _zmtp.messages
	_zmtp.messages = []
	if _zmtp.fault or status != StreamPeerTCP.STATUS_CONNECTED:
		result["closed"] = _zmtp.fault if _zmtp.fault else "the connection was closed"
		_drop()
	return result


func send(data: PackedByteArray) -> void:
	if _open:
		_zmtp.send(data)


## Close after what was sent before, for at most 100 ms.
func close() -> void:
	var end := Time.get_ticks_msec() + CLOSE_MS
	while _open and not _zmtp.outgoing.is_empty() and Time.get_ticks_msec() < end:
		_peer.poll()
		if _peer.get_status() != StreamPeerTCP.STATUS_CONNECTED:
			break
		_flush()
		OS.delay_usec(1000)
	_drop()


func _drop() -> void:
	if _peer:
		_peer.disconnect_from_host()
	_peer = null
	_zmtp = null
	_open = false


func _receive() -> void:
	var count := _peer.get_available_bytes()
	if count > 0:
		_zmtp.feed(_peer.get_partial_data(count)[1])


func _flush() -> void:
	if _zmtp.outgoing.is_empty():
		return
	var result := _peer.put_partial_data(_zmtp.outgoing)
	if result[0] == OK:
		_zmtp.outgoing = _zmtp.outgoing.slice(result[1])
