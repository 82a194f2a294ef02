extends RefCounted
## What went wrong, what was expected, and what to do: the protocol's error on the client's side.

var code: String
var message: String
var expected: String
var got: String
var remedy: String
var path: String


func _init(code_: String, path_: String, expected_: String, got_: String, message_ := "",
		remedy_ := "Update client and server to the same version.") -> void:
	code = code_
	path = path_
	expected = expected_
	got = got_
	message = message_ if message_ else "The message is not valid"
	remedy = remedy_


func _to_string() -> String:
	return "%s: %s (%s): expected %s, got %s. %s" % [code, message, path, expected, got, remedy]
