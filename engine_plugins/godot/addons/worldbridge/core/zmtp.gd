extends RefCounted
## ZMTP 3.1, the bytes of ZeroMQ, for a DEALER without encryption (the mechanism NULL). No socket:
## `feed` takes what came, `outgoing` is what to send.

const VERSION := [3, 1]
const GREETING_BYTES := 64
const MAX_BYTES := 64 * 1024 * 1024  # of a part
const MAX_PARTS := 3
const MORE := 1
const LONG := 2
const COMMAND := 4

var outgoing := PackedByteArray()
## Messages that came whole: Arrays of PackedByteArray, one per part.
var messages: Array[Array] = []
## The other side is a ROUTER that is ready.
var ready := false
## What is wrong with the other side; empty: nothing.
var fault := ""

var _input := PackedByteArray()
var _parts: Array[PackedByteArray] = []
var _greeted := false


func _init() -> void:
	outgoing.resize(GREETING_BYTES)
	outgoing[0] = 0xff
	outgoing[8] = 1
	outgoing[9] = 0x7f
	outgoing[10] = VERSION[0]
	outgoing[11] = VERSION[1]
	_write(outgoing, 12, "NULL")


## Take bytes of the other side.
func feed(data: PackedByteArray) -> void:
	_input.append_array(data)
	var at := 0
	while not fault:
		var taken := _greeting(at) if not _greeted else _frame(at)
		if taken == 0:
			break
		at += taken
	if at > 0:
		_input = _input.slice(at)


## Send a message of one part.
func send(part: PackedByteArray) -> void:
	_put(0, part)


## Return how many bytes the greeting takes, 0 while it is not whole.
func _greeting(at: int) -> int:
	if _input.size() - at < GREETING_BYTES:
		return 0
	if _input[at] != 0xff or _input[at + 9] != 0x7f or _input[at + 10] < 3:
		fault = "the server does not speak ZeroMQ (ZMTP 3)"
		return 0
	var mechanism := _input.slice(at + 12, at + 32).get_string_from_ascii()
	if mechanism != "NULL":
		fault = "the server asks for the mechanism %s; this client has no keys" % mechanism
		return 0
	_greeted = true
	var body := PackedByteArray()
	_append(body, "READY")
	_append(body, "Socket-Type")
	body.append_array(PackedByteArray([0, 0, 0, 6]))
	body.append_array("DEALER".to_ascii_buffer())
	_put(COMMAND, body)
	return GREETING_BYTES


## Return how many bytes the next frame takes, 0 while it is not whole.
func _frame(at: int) -> int:
	var there := _input.size() - at
	if there < 2:
		return 0
	var flags := _input[at]
	var head := 9 if flags & LONG else 2
	if there < head:
		return 0
	var length := 0
	for i in range(1, head):
		length = length * 256 + _input[at + i]
		if length > MAX_BYTES:
			fault = "a part is larger than %d bytes" % MAX_BYTES
			return 0
	if flags & ~(MORE | LONG | COMMAND) or (flags & COMMAND and flags & MORE):
		fault = "a frame has the flags %d" % flags
		return 0
	if there < head + length:
		return 0
	var body := _input.slice(at + head, at + head + length)
	if flags & COMMAND:
		_command(body)
	else:
		_part(body, flags & MORE)
	return head + length


func _part(body: PackedByteArray, more: bool) -> void:
	if not ready:
		fault = "a message came before the handshake ended"
		return
	_parts.append(body)
	if _parts.size() > MAX_PARTS:
		fault = "a message has more than %d parts" % MAX_PARTS
	elif not more:
		messages.append(_parts)
		_parts = []


func _command(body: PackedByteArray) -> void:
	var size := body[0] if body.size() > 0 else 0
	var name := body.slice(1, 1 + size).get_string_from_ascii()
	var rest := body.slice(1 + size)
	match name:
		"READY":
			ready = true
		"PING":  # two bytes of time to live, then a context that comes back
			var answer := PackedByteArray()
			_append(answer, "PONG")
			answer.append_array(rest.slice(2))
			_put(COMMAND, answer)
		"ERROR":
			fault = "the server refused: " + rest.slice(1).get_string_from_ascii()


func _put(flags: int, body: PackedByteArray) -> void:
	if body.size() < 256:
		outgoing.append_array(PackedByteArray([flags, body.size()]))
	else:
		outgoing.append(flags | LONG)
		for i in 8:
			outgoing.append((body.size() >> (8 * (7 - i))) & 0xff)
	outgoing.append_array(body)


static func _append(to: PackedByteArray, name: String) -> void:
	to.append(name.length())
	to.append_array(name.to_ascii_buffer())


static func _write(to: PackedByteArray, at: int, text: String) -> void:
	for i in text.length():
		to[at + i] = text.unicode_at(i)
