using System;

namespace WorldBridge
{
    /// <summary>Report a message that breaks the protocol, or an error that the server sent.</summary>
    public sealed class ProtocolError : Exception
    {
        /// <summary>Create an error with the fields of the protocol's <c>error</c> message.</summary>
        public ProtocolError(
            string code,
            string message,
            string expected = "",
            string got = "",
            string remedy = "",
            string path = "",
            bool fatal = true
        )
            : base(message)
        {
            Code = code;
            Expected = expected;
            Got = got;
            Remedy = remedy;
            Path = path;
            Fatal = fatal;
        }

        /// <summary>Get the code, such as <c>bad_message</c>.</summary>
        public string Code { get; }

        /// <summary>Get what was expected.</summary>
        public string Expected { get; }

        /// <summary>Get what came instead.</summary>
        public string Got { get; }

        /// <summary>Get what to do about it.</summary>
        public string Remedy { get; }

        /// <summary>Get the field at fault, such as <c>welcome.world.width</c>.</summary>
        public string Path { get; }

        /// <summary>Get whether the connection ends with this error.</summary>
        public bool Fatal { get; }

        internal static ProtocolError Bad(string path, string expected, string got) =>
            new ProtocolError(
                "bad_message",
                "The message is invalid",
                expected,
                got,
                "Update the older of client and server.",
                path
            );
    }
}
