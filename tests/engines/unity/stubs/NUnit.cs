// The part of NUnit that the package's tests use, to run them without Unity.

using System;

namespace NUnit.Framework
{
    [AttributeUsage(AttributeTargets.Class)]
    public sealed class TestFixtureAttribute : Attribute { }

    [AttributeUsage(AttributeTargets.Method)]
    public sealed class TestAttribute : Attribute { }

    public sealed class AssertionException : Exception
    {
        public AssertionException(string message)
            : base(message) { }
    }

    public delegate void TestDelegate();

    public static class Assert
    {
        public static void AreEqual(object expected, object actual)
        {
            if (!Equals(expected, actual))
                throw new AssertionException($"expected {expected}, got {actual}");
        }

        public static void AreEqual(double expected, double actual, double delta)
        {
            if (!(Math.Abs(expected - actual) <= delta))
                throw new AssertionException($"expected {expected} within {delta}, got {actual}");
        }

        public static void IsTrue(bool condition) => AreEqual(true, condition);

        public static void IsFalse(bool condition) => AreEqual(false, condition);

        public static T Throws<T>(TestDelegate code)
            where T : Exception
        {
            try
            {
                code();
            }
            catch (T error)
            {
                return error;
            }
            throw new AssertionException($"{typeof(T).Name} was not thrown");
        }
    }
}
