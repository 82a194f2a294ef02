extends RefCounted
## MessagePack as the protocol uses it: nil, bool, integers, floats, str, bin, array, and map with
## string keys. Extension types, duplicate keys, trailing bytes and deep nesting are errors.

const MAX_DEPTH := 16
const MAX_INTEGER := 9007199254740991

## Why the last `unpack` failed; empty after success.
var expected := ""
var got := ""

var _data: PackedByteArray
var _stream := StreamPeerBuffer.new()


func _init() -> void:
	_stream.big_endian = true


## Return the bytes of a value. Dictionaries keep their order; null is nil.
static func pack(value: Variant) -> PackedByteArray:
	var stream := StreamPeerBuffer.new()
	stream.big_endian = true
	_write(stream, value)
	return stream.data_array


static func _write(stream: StreamPeerBuffer, value: Variant) -> void:
	match typeof(value):
		TYPE_NIL:
			stream.put_u8(0xc0)
		TYPE_BOOL:
			stream.put_u8(0xc3 if value else 0xc2)
		TYPE_INT:
			_write_integer(stream, value)
		TYPE_FLOAT:
			stream.put_u8(0xcb)
			stream.put_double(value)
		TYPE_STRING, TYPE_STRING_NAME:
			var text := String(value).to_utf8_buffer()
			_write_length(stream, text.size(), 0xa0, 32, [0xd9, 0xda, 0xdb])
			stream.put_data(text)
		TYPE_PACKED_BYTE_ARRAY:
			_write_length(stream, value.size(), 0, 0, [0xc4, 0xc5, 0xc6])
			stream.put_data(value)
		TYPE_DICTIONARY:
			_write_length(stream, value.size(), 0x80, 16, [0, 0xde, 0xdf])
			for key: String in value:
				_write(stream, key)
				_write(stream, value[key])
		_:
			assert(value is Array, "MessagePack has no %s" % type_string(typeof(value)))
			_write_length(stream, value.size(), 0x90, 16, [0, 0xdc, 0xdd])
			for item: Variant in value:
				_write(stream, item)


## `codes` are those of 8, 16 and 32 bits; 0: there is none.
static func _write_length(stream: StreamPeerBuffer, length: int, short: int, limit: int,
		codes: Array[int]) -> void:
	if length < limit:
		stream.put_u8(short | length)
	elif codes[0] and length <= 0xff:
		stream.put_u8(codes[0])
		stream.put_u8(length)
	elif length <= 0xffff:
		stream.put_u8(codes[1])
		stream.put_u16(length)
	else:
		stream.put_u8(codes[2])
		stream.put_u32(length)


static func _write_integer(stream: StreamPeerBuffer, value: int) -> void:
	if value >= 0:
		if value < 0x80:
			stream.put_u8(value)
		elif value <= 0xff:
			stream.put_u8(0xcc)
			stream.put_u8(value)
		elif value <= 0xffff:
			stream.put_u8(0xcd)
			stream.put_u16(value)
		elif value <= 0xffffffff:
			stream.put_u8(0xce)
			stream.put_u32(value)
		else:
			stream.put_u8(0xcf)
			stream.put_u64(value)
	elif value >= -0x20:
		stream.put_8(value)
	elif value >= -0x80:
		stream.put_u8(0xd0)
		stream.put_8(value)
	elif value >= -0x8000:
		stream.put_u8(0xd1)
		stream.put_16(value)
	elif value >= -0x80000000:
		stream.put_u8(0xd2)
		stream.put_32(value)
	else:
		stream.put_u8(0xd3)
		stream.put_64(value)


## Return exactly one value. On failure `expected` is not empty and the result means nothing.
func unpack(data: PackedByteArray) -> Variant:
	_data = data
	_stream.data_array = data
	_stream.seek(0)
	expected = ""
	got = ""
	var value: Variant = _value(0)
	if not expected and _stream.get_available_bytes() > 0:
		return _fail("one value", "%d bytes after it" % _stream.get_available_bytes())
	return value


func _fail(expected_: String, got_: String) -> Variant:
	if not expected:
		expected = expected_
		got = "%s at byte %d" % [got_, _stream.get_position()]
	return null


func _has(count: int) -> bool:
	if count <= _stream.get_available_bytes():
		return true
	_fail("%d more bytes" % count, str(_stream.get_available_bytes()))
	return false


func _length(width: int) -> int:
	if not _has(width):
		return 0
	match width:
		1: return _stream.get_u8()
		2: return _stream.get_u16()
		_: return _stream.get_u32()


func _take(count: int) -> PackedByteArray:
	if expected or not _has(count):
		return PackedByteArray()
	var at := _stream.get_position()
	_stream.seek(at + count)
	return _data.slice(at, at + count)


func _text(length: int) -> String:
	var bytes := _take(length)
	if not is_utf8(bytes):
		_fail("valid UTF-8", "other bytes")
		return ""
	var text := bytes.get_string_from_utf8()
	# A string of the engine ends at a zero byte.
	if bytes.has(0):
		_fail("text without zero bytes", "a zero byte")
	return text


## Return whether the bytes are UTF-8; the engine's own conversion replaces what is not.
static func is_utf8(bytes: PackedByteArray) -> bool:
	var i := 0
	while i < bytes.size():
		var lead := bytes[i]
		i += 1
		if lead < 0x80:
			continue
		var more := 1 if lead >= 0xc2 and lead < 0xe0 else 2 if lead >= 0xe0 and lead < 0xf0 \
				else 3 if lead >= 0xf0 and lead < 0xf5 else 0
		if more == 0 or i + more > bytes.size():
			return false
		var second := bytes[i]
		# Overlong forms, surrogates, and what lies above U+10FFFF.
		if (lead == 0xe0 and second < 0xa0) or (lead == 0xed and second > 0x9f) \
				or (lead == 0xf0 and second < 0x90) or (lead == 0xf4 and second > 0x8f):
			return false
		for k in more:
			if bytes[i + k] & 0xc0 != 0x80:
				return false
		i += more
	return true


func _array(length: int, depth: int) -> Variant:
	if expected or not _has(length):  # each item has a byte at least
		return null
	var items := []
	for i in length:
		items.append(_value(depth + 1))
		if expected:
			return null
	return items


func _map(length: int, depth: int) -> Variant:
	if expected or not _has(2 * length):
		return null
	var entries := {}
	for i in length:
		var key: Variant = _value(depth + 1)
		if not expected and not key is String:
			return _fail("a string key", type_string(typeof(key)))
		if not expected and entries.has(key):
			return _fail("distinct keys", "'%s' twice" % key)
		var value: Variant = _value(depth + 1)
		if expected:
			return null
		entries[key] = value
	return entries


func _integer(value: int, unsigned: bool) -> Variant:
	if absi(value) > MAX_INTEGER or (unsigned and value < 0):
		return _fail("an integer within 2^53", str(value))
	return value


func _value(depth: int) -> Variant:
	if depth > MAX_DEPTH:
		return _fail("at most %d levels" % MAX_DEPTH, "more")
	if not _has(1):
		return null
	var code := _stream.get_u8()
	if code < 0x80:
		return code
	if code < 0x90:
		return _map(code & 0x0f, depth)
	if code < 0xa0:
		return _array(code & 0x0f, depth)
	if code < 0xc0:
		return _text(code & 0x1f)
	if code >= 0xe0:
		return code - 0x100
	return _long_value(code, depth)


func _long_value(code: int, depth: int) -> Variant:
	match code:
		0xc0: return null
		0xc2: return false
		0xc3: return true
		0xc4: return _take(_length(1))
		0xc5: return _take(_length(2))
		0xc6: return _take(_length(4))
		0xca: return _stream.get_float() if _has(4) else null
		0xcb: return _stream.get_double() if _has(8) else null
		0xcc, 0xcd, 0xce: return _length(1 << (code - 0xcc))
		0xcf: return _integer(_stream.get_u64(), true) if _has(8) else null
		0xd0: return _stream.get_8() if _has(1) else null
		0xd1: return _stream.get_16() if _has(2) else null
		0xd2: return _stream.get_32() if _has(4) else null
		0xd3: return _integer(_stream.get_64(), false) if _has(8) else null
		0xd9: return _text(_length(1))
		0xda: return _text(_length(2))
		0xdb: return _text(_length(4))
		0xdc: return _array(_length(2), depth)
		0xdd: return _array(_length(4), depth)
		0xde: return _map(_length(2), depth)
		0xdf: return _map(_length(4), depth)
	return _fail("nil, bool, int, float, str, bin, array or map", "code 0x%x" % code)
